"""Networks that ship: a folder each with weights.safetensors, SHA256, card.md and recipe.toml."""
