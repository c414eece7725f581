"""Synthetic dialogues: written by a text LLM, spoken by a TTS voice; from there the same way as recorded speech."""
