"""CelebA and LFW in the layouts they are published in, whole and damaged, in any order on disk."""

import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from tests.problems import dataset

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = [f"{number:06}.jpg" for number in range(1, 9)]
HAS = [True, False, True, True, False, False, True, False]
PARTITION = [0, 0, 1, 0, 2, 0, 2, 1]


def picture(seed: int, height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path) -> None:
    """Under the name of a JPEG, without its losses: what a file is called does not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")


def write_celeba(folder: Path, kind: str = "txt", order: list[int] | None = None, nested: bool = False) -> Path:
    images = folder / "img_align_celeba" / ("img_align_celeba" if nested else "")
    for index in order or range(len(NAMES)):
        save(picture(index, 21, 17), images / NAMES[index])
    values = [f"{NAMES[index]}  1 {1 if HAS[index] else -1} -1" for index in range(len(NAMES))]
    partition = [f"{name} {part}" for name, part in zip(NAMES, PARTITION, strict=True)]
    header = "Bald Male Young"
    if kind == "txt":
        attributes = "\n".join([str(len(NAMES)), f"{header} ", *values])
    else:
        attributes = "\n".join(["image_id," + header.replace(" ", ","), *(",".join(row.split()) for row in values)])
        partition = ["image_id,partition", *(row.replace(" ", ",") for row in partition)]
    (folder / f"list_attr_celeba.{kind}").write_text(attributes + "\n")
    (folder / f"list_eval_partition.{kind}").write_text("\n".join(partition) + "\n")
    return folder


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_celeba_in_its_published_formats(tmp_path: Path, kind: str, nested: bool) -> None:
    data = dataset(f"celeba:{write_celeba(tmp_path, kind, nested=nested)},size=8")
    for images, part in ((data.train, 0), (data.test, 2)):
        wanted = [index for index in range(len(NAMES)) if PARTITION[index] == part]
        assert images.labels.tolist() == [int(HAS[index]) for index in wanted]
        resized = [np.asarray(picture(index, 21, 17).resize((8, 8), Image.Resampling.BILINEAR)) for index in wanted]
        np.testing.assert_array_equal(images.inputs.permute(0, 2, 3, 1), np.stack(resized))
        assert images.inputs.is_contiguous()
    assert data.class_names == ("not Male", "Male")
    assert (data.mean, data.std) == IMAGENET


def test_celeba_has_128_pixels_and_no_augmentation_unless_asked_otherwise(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    data = dataset(f"celeba:{tmp_path}")
    assert data.train.shape == (3, 128, 128)
    assert data.train.augmentation is None
    augmented = dataset(f"celeba:{tmp_path},augment=true,size=4")
    assert augmented.train.augmentation == Augmentation()
    assert augmented.test.augmentation is None


def test_celeba_by_the_first_images_and_another_attribute(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    data = dataset(f"celeba:{tmp_path},first=2,first_test=1,size=4")
    assert (len(data.train), len(data.test)) == (2, 1)
    assert data.train.labels.tolist() == [1, 0], "in the order of the list"
    assert len(dataset(f"celeba:{tmp_path},first=99,first_test=99,size=4").train) == 4
    with pytest.raises(RequestError, match=r"all of the 4 training images are Bald: take more of them by first, or"):
        dataset(f"celeba:{tmp_path},attribute=Bald,size=4")
    with pytest.raises(RequestError, match="none of the 4 training images are Young"):
        dataset(f"celeba:{tmp_path},attribute=Young,size=4")


def test_celeba_needs_only_the_images_it_uses(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    for name, part in zip(NAMES, PARTITION, strict=True):
        if part == 1:
            (tmp_path / "img_align_celeba" / name).unlink()
    assert len(dataset(f"celeba:{tmp_path},size=4").train) == 4
    (tmp_path / "img_align_celeba" / NAMES[5]).unlink()
    with pytest.raises(RequestError, match=r"lacks 1 of 4 images of the list, the first being 000006.jpg: unpack"):
        dataset(f"celeba:{tmp_path},size=4")
    assert len(dataset(f"celeba:{tmp_path},size=4,first=3").train) == 3


def edit(path: Path, before: str, after: str) -> None:
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, after, 1))


ATTRIBUTES, PARTITIONS = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        (ATTRIBUTES, "8\n", "9\n", r"list_attr_celeba.txt says 9 images and holds 8: fetch it again"),
        (ATTRIBUTES, "8\nBald Male Young \n", "", r"there is no attribute 'Male'; "),
        (ATTRIBUTES, "Bald Male", "Bald Female", r"there is no attribute 'Male'; did you mean Female"),
        (ATTRIBUTES, "000003.jpg  1 1 -1", "000003.jpg 1 1", r"txt, line 5 should hold an image and 3 values"),
        (ATTRIBUTES, "000003.jpg  1 1 -1", "000003.jpg 1 2 -1", r"txt, line 5 should hold .* each -1 or 1"),
        (ATTRIBUTES, "000003", "000002", r"txt, line 5: 000002.jpg is listed twice"),
        (ATTRIBUTES, "000003", "000099", r"list_eval_partition lacks 1 images .* first being 000099.jpg; fetch both"),
        (PARTITIONS, "000003.jpg 1\n", "", r"list_eval_partition lacks 1 images .* first being 000003.jpg; fetch both"),
        (PARTITIONS, "000003.jpg 1\n", "000003.jpg 1\n9.jpg 0\n", r"list_attr_celeba lacks 1 images .* 9.jpg"),
        (
            PARTITIONS,
            "000003.jpg 1\n",
            "000003.jpg\n",
            r"txt, line 3 should hold an image and its partition, 0, 1 or 2",
        ),
        (PARTITIONS, "000003.jpg 1\n", "000003.jpg 3\n", r"txt, line 3 should hold an image and its partition"),
        (PARTITIONS, "000003.jpg 1\n", "000003.jpg 1\n" * 2, r"txt, line 4: 000003.jpg is listed twice"),
    ],
)
def test_damaged_lists_of_celeba_are_named_with_the_line(
    tmp_path: Path, file: str, before: str, after: str, message: str
) -> None:
    edit(write_celeba(tmp_path) / file, before, after)
    with pytest.raises(RequestError, match=message) as caught:
        dataset(f"celeba:{tmp_path},size=4")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", ["txt", "csv"])
@pytest.mark.parametrize("stem", ["list_attr_celeba", "list_eval_partition"])
def test_lists_of_celeba_that_are_missing_empty_or_no_text(tmp_path: Path, stem: str, kind: str) -> None:
    path = write_celeba(tmp_path, kind) / f"{stem}.{kind}"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"000004", b"\xff\xfe\xfa"))
    with pytest.raises(RequestError, match=rf"{stem}.{kind} is not UTF-8 text: fetch it again"):
        dataset(f"celeba:{tmp_path},size=4")
    path.write_bytes(b"")
    with pytest.raises(RequestError, match=r"attr_celeba.* names no attributes|partition lacks 8 images"):
        dataset(f"celeba:{tmp_path},size=4")
    path.unlink()
    with pytest.raises(RequestError, match=rf"holds no {stem}.txt and no {stem}.csv: put the file"):
        dataset(f"celeba:{tmp_path},size=4")


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_mark_of_byte_order_and_windows_lines_are_no_part_of_the_lists(tmp_path: Path, kind: str) -> None:
    write_celeba(tmp_path, kind)
    wanted = dataset(f"celeba:{tmp_path},size=4").train.fingerprint()
    for path in tmp_path.glob(f"*.{kind}"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert dataset(f"celeba:{tmp_path},size=4").train.fingerprint() == wanted


@pytest.mark.parametrize(("part", "what"), [(0, "training"), (2, "test")])
def test_a_partition_of_celeba_without_images(tmp_path: Path, part: int, what: str) -> None:
    path = write_celeba(tmp_path) / PARTITIONS
    path.write_text(path.read_text().replace(f" {part}\n", " 1\n"))
    with pytest.raises(RequestError, match=f"list_eval_partition gives no image to the {what} partition"):
        dataset(f"celeba:{tmp_path},size=4")


def test_a_list_cannot_reach_outside_the_folder_of_images(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    save(picture(0, 21, 17), tmp_path / "secret.jpg")
    for file in (ATTRIBUTES, PARTITIONS):
        edit(tmp_path / file, NAMES[0], "../secret.jpg")
    with pytest.raises(RequestError, match=r"lacks 1 of 4 images of the list, the first being \.\./secret.jpg"):
        dataset(f"celeba:{tmp_path},size=4")


def test_celeba_without_its_folder_of_images(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "other")
    with pytest.raises(RequestError, match=r"there is no folder .*img_align_celeba$"):
        dataset(f"celeba:{tmp_path},size=4")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(pixels: int) -> bytes:
    """A PNG that says it has so many pixels on each side."""
    header = struct.pack(">IIBBBBB", pixels, pixels, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(60_000), "has too many pixels to be decoded safely"),
        (bomb(10_000), "has too many pixels to be decoded safely"),
        (bomb(50), "is damaged"),
        (b"nonsense", "is damaged, or no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is damaged, or no image of a known format"),
        (b"", "is damaged, or no image of a known format"),
    ],
    ids=["bomb", "warning", "hollow", "nonsense", "program", "empty"],
)
def test_images_that_are_none_or_bombs_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba" / NAMES[1]).write_bytes(content)
    with pytest.raises(RequestError, match=f"img_align_celeba/{NAMES[1]} {message}"):
        dataset(f"celeba:{tmp_path},size=4")


def test_a_true_jpeg_is_read_and_a_cut_one_is_named(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    path = tmp_path / "img_align_celeba" / NAMES[0]
    Image.new("RGB", (178, 218), (200, 60, 20)).save(path, "JPEG", quality=95)
    first = dataset(f"celeba:{tmp_path},size=4").train.inputs[0]
    assert (first[:, 0, 0].int() - first.new_tensor([200, 60, 20]).int()).abs().max() <= 3, "red comes first"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(RequestError, match=f"{NAMES[0]} is damaged"):
        dataset(f"celeba:{tmp_path},size=4")


PEOPLE = {"Ann_B": 4, "Cid_D": 5, "Eve_F": 10, "Gus_H": 6, "Ida_J": 11}


def write_lfw(folder: Path, shuffled: random.Random | None = None) -> Path:
    files = [(name, number) for name, count in PEOPLE.items() for number in range(count)]
    if shuffled is not None:
        shuffled.shuffle(files)
    for name, number in files:
        save(picture(1000 * len(name) + number + PEOPLE[name], 12, 11), folder / name / f"{name}_{number:04}.jpg")
    (folder / "README.txt").write_text("no person")
    (folder / ".hidden").mkdir()
    return folder


SMALL = "least=5,most=10,crop=10"


def test_lfw_has_the_people_with_enough_images_but_not_too_many(tmp_path: Path) -> None:
    data = dataset(f"lfw:{write_lfw(tmp_path)},{SMALL}")
    assert data.class_names == ("Cid_D", "Eve_F", "Gus_H")
    assert data.test.labels.tolist() == [0, 1, 1, 2], "a fifth of each, rounded down"
    assert data.train.labels.tolist() == [0] * 4 + [1] * 8 + [2] * 5
    assert data.train.shape == (3, 10, 10)
    assert (data.mean, data.std) == IMAGENET
    assert data.train.augmentation is None
    assert data.test.augmentation is None


def test_every_image_of_lfw_is_there_once_with_its_centre_in_rgb(tmp_path: Path) -> None:
    data = dataset(f"lfw:{write_lfw(tmp_path)},{SMALL}")
    for label, name in enumerate(data.class_names):
        pictures = [picture(1000 * len(name) + number + PEOPLE[name], 12, 11) for number in range(PEOPLE[name])]
        wanted = {np.asarray(image)[1:11, 0:10].tobytes() for image in pictures}
        found = [
            image.permute(1, 2, 0).contiguous().numpy().tobytes()
            for images in (data.train, data.test)
            for image in images.inputs[images.labels == label]
        ]
        assert len(found) == len(wanted)
        assert set(found) == wanted


def test_lfw_is_resized_after_the_crop(tmp_path: Path) -> None:
    write_lfw(tmp_path)
    whole, small = dataset(f"lfw:{tmp_path},{SMALL}"), dataset(f"lfw:{tmp_path},{SMALL},size=4")
    cropped = Image.fromarray(whole.test.inputs[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(
        small.test.inputs[0].permute(1, 2, 0), np.asarray(cropped.resize((4, 4), Image.Resampling.BILINEAR))
    )


def test_another_seed_sets_other_images_of_lfw_aside(tmp_path: Path) -> None:
    write_lfw(tmp_path)
    tests = [dataset(f"lfw:{tmp_path},{SMALL},seed={seed}").test for seed in (0, 0, 1, 2, 3)]
    assert tests[0].fingerprint() == tests[1].fingerprint()
    assert len({test.fingerprint() for test in tests}) > 1
    assert all(test.labels.tolist() == [0, 1, 1, 2] for test in tests)


def test_images_in_the_published_size_need_no_options_but_the_people(tmp_path: Path) -> None:
    for number in range(5):
        save(Image.new("RGB", (250, 250), (number, 9, 200)), tmp_path / "Ann_B" / f"{number}.JPG")
    data = dataset(f"lfw:{tmp_path},least=5")
    assert data.train.shape == (3, 224, 224)
    assert data.train.inputs[:, :, 0, 0].tolist()[0][1:] == [9, 200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("least=12,most=20", r"has no person with 12 to 20 images, the most being 11: change least and most"),
        ("least=5,most=10,crop=12", r"jpg has 11 x 12 pixels, too few for a crop of 12: give a smaller crop"),
        ("least=4", "least must be a finite number, at least 5"),
        ("least=9,most=8", "most must be a finite number, at least 9"),
        ("crop=0", "crop must be"),
        ("size=0", "size must be"),
    ],
)
def test_options_of_lfw_that_cannot_be_met(tmp_path: Path, options: str, message: str) -> None:
    write_lfw(tmp_path)
    with pytest.raises(RequestError, match=message):
        dataset(f"lfw:{tmp_path},{options}")


@pytest.mark.parametrize("option", ["size=0", "first=0", "first_test=-1"])
def test_options_of_celeba_that_cannot_be_met(tmp_path: Path, option: str) -> None:
    with pytest.raises(RequestError, match=f"{option.partition('=')[0]} must be"):
        dataset(f"celeba:{tmp_path},{option}")


def test_lfw_without_people_or_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the most being 0"):
        dataset(f"lfw:{tmp_path}")
    with pytest.raises(RequestError, match="there is no folder"):
        dataset(f"lfw:{tmp_path / 'none'}")
    person = tmp_path / os.fsdecode(b"Ann_\xff")
    for number in range(5):
        save(picture(number, 10, 10), person / f"{number}.jpg")
    with pytest.raises(RequestError, match=r"is no printable text in UTF-8: rename it"):
        dataset(f"lfw:{tmp_path},least=5,crop=8")


def test_neither_depends_on_the_order_in_which_files_lie_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    listed, iterated = os.listdir, Path.iterdir
    for seed in range(3):
        shuffle = random.Random(seed)
        order = list(range(len(NAMES)))
        shuffle.shuffle(order)
        faces = write_celeba(tmp_path / f"c{seed}", order=order)
        people = write_lfw(tmp_path / f"l{seed}", shuffle)
        monkeypatch.setattr(os, "listdir", lambda path, r=shuffle: r.sample(names := listed(path), len(names)))
        monkeypatch.setattr(
            Path, "iterdir", lambda path, r=shuffle: iter(r.sample(all_ := [*iterated(path)], len(all_)))
        )
        loaded = (dataset(f"celeba:{faces},size=4"), dataset(f"lfw:{people},{SMALL}"))
        monkeypatch.undo()
        found.append([(d.train.fingerprint(), d.test.fingerprint(), d.class_names) for d in loaded])
    assert found[0] == found[1] == found[2]


PRINT = """
import sys
from expunge.core import config, registry
for text in sys.argv[1:]:
    wanted = config.parse("data", text)
    data = registry.of_config("data", wanted).call(wanted)
    print(data.train.fingerprint(), data.test.fingerprint(), data.class_names)
"""


@pytest.mark.slow
def test_neither_depends_on_the_seed_of_hashes(tmp_path: Path) -> None:
    texts = [f"celeba:{write_celeba(tmp_path / 'c')},size=4", f"lfw:{write_lfw(tmp_path / 'l')},{SMALL}"]
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": other}
    printed = subprocess.check_output([sys.executable, "-c", PRINT, *texts], env=environment, text=True)
    found = [(data.train.fingerprint(), data.test.fingerprint(), data.class_names) for data in map(dataset, texts)]
    assert printed.splitlines() == [" ".join(map(str, each)) for each in found]
