"""LwfSeg: the old network teaches the new one."""
