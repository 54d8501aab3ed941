"""Pretrained bases."""
