"""The virtual operating room: a patient, a C-arm, a tracker and a surgeon's hand, with ground truth."""
