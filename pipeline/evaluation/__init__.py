"""What evaluate computes and draws, and how far two machines' results may lie apart."""
