"""Who is who: keys, certificates, the trust between agent and relay, and TLS contexts."""
