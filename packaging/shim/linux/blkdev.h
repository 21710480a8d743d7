/* Stands in for a kernel header that liburing 2.9 includes and Debian 12's kernel headers (6.1) do not have.
 * On the include path only where the system has no <linux/blkdev.h>; ringpost uses nothing of it.
 */
#ifndef RINGPOST_SHIM_LINUX_BLKDEV_H
#define RINGPOST_SHIM_LINUX_BLKDEV_H

#include <linux/ioctl.h>

#ifndef BLOCK_URING_CMD_DISCARD
#define BLOCK_URING_CMD_DISCARD _IO(0x12, 0)
#endif

#endif
