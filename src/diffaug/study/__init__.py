"""The study: the same segmentation model on different training sets, judged on the same held-out real cases."""
