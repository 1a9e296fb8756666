"""The drawings of docs/method.md, made of two networks that were trained on digits."""
