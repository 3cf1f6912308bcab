"""Where others knock: clients at `api`, the carrier at `hooks`; `security` decides who may come in."""
