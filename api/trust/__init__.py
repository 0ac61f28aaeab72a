"""Who is who between the parts, and who may touch which dataset: identities, certificates, capability tokens."""
