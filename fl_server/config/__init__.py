"""What a run was asked to be: composed by Hydra, checked, frozen."""
