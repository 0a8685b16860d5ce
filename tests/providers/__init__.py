"""The outside of each provider, as the conformance suite sees and spoils it: one small module each."""
