SELECT tick, epoch, snap, at FROM rowcast.tick ORDER BY tick DESC LIMIT 1
