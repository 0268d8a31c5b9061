"""Time and memory of fine-tuning are measured before the first step, and epochs planned to fit.

About 6 s in the first tier.
"""
