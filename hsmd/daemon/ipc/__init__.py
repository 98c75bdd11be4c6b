"""What launcher, front and worker say to each other, and how one starts another; loads no PKCS#11 module."""
