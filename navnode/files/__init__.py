"""Files: CTs, views, calibrations, reports. LPS becomes RAS here and nowhere else."""
