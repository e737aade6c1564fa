"""The state directory of a cloud: keys, certificates and ports that persist across restarts."""
