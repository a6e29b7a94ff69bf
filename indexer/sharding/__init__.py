"""An index in parts: shards that any scheduler embeds side by side, and one bundle of them."""
