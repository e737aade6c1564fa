"""The groups of `edgewright iothub`: identities, certificates, enrolments. `cloud/iothub/cli.py` has the rest."""
