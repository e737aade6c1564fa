"""Hardware profiles: the catalogue, detection of this machine's profile, and the choice of a variant for a profile."""
