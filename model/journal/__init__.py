"""What people taught a root: kept in its journal, durable before it is acknowledged."""
