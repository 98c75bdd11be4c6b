"""Messages between launcher, front and workers, and how these processes are started; loads no PKCS#11 module."""
