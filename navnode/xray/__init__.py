"""X-ray images: counts, what the detector and a bent C-arm do to them, and dose."""
