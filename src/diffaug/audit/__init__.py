"""What a synthetic set is: whole or damaged, like real images or not, copied or not, of use or not; one page."""
