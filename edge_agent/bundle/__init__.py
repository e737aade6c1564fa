"""A tar with everything that a device without internet needs to become one of the fleet."""
