"""Studies: many runs on the same data, compared; ``python -m medxfer.study`` drives them."""
