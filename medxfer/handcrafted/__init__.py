"""The classic counterpart of each application, one file each."""
