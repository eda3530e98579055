"""Real data with fixed splits. Each installs as a package; nothing is downloaded at run time."""
