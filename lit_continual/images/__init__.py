"""Files of images to voxels on a grid and back: NIfTI, DICOM, the units of PET, and resampling."""
