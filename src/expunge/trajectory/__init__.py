"""Recorded trainings, their replay, and the derivatives of the trained weights with respect to leaving examples out."""
