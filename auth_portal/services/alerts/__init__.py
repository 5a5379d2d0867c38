"""What needs attention: found, told to owners and to a program of the business."""
