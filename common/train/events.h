/* events.h - event files for TensorBoard
 * SPDX-License-Identifier: MIT
 *
 * A file of records: u64 length, u32 masked CRC-32C of these 8 bytes, the data, u32 masked CRC-32C of the data, all little
 * endian; masked: ((c >> 15) | (c << 17)) + 0xa282ead8. The data are protocol buffers of type Event:
 *   1 wall_time double   2 step varint   3 file_version string, "brain.Event:2", in the first record only
 *   5 summary { 1 value { 1 tag string   2 simple_value float } ... }
 * Only rank 0 writes. One record is one write(), so a reader sees whole records but for the last of a killed run.
 */
#ifndef SSM_EVENTS_H
#define SSM_EVENTS_H

#include <stddef.h>
#include <stdint.h>

struct events;
/* Begins DIR/events.out.tfevents.TIME.HOST.PID. Dies when it cannot be written. */
struct events *events_open(const char *dir);
/* Appends one event with n scalars. Values that are not finite are written as they are. Dies when it cannot. */
struct scalar {
    const char *tag;
    double value;
};
void events_write(struct events *e, int64_t step, const struct scalar *s, size_t n);
void events_close(struct events *e);

/* CRC-32C (Castagnoli, reflected polynomial 0x82f63b78). */
uint32_t events_crc(const void *data, size_t n);

#endif
