"""From a manifest to tasks, and what one task does. One Task in, one Shard out; no Ray."""
