"""The wire protocol of docs/protocol.md: frames, the channel's state machine, control messages. Bytes in, values out."""
