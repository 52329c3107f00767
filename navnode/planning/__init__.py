"""Plans of entry and target: how a tool deviates from one, and how the C-arm would look along it."""
