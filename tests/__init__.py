"""The promises of lorad, tested on real files, processes and sockets. The folders mirror the source tree."""
