"""The state directory of a cloud: settings, keys, certificates and ports that outlive a restart."""
