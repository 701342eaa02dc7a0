/** How long a gap in `seq` may last: what is late comes by itself. */
export const GAP_MS = 1_000;

/** A place in a chat's live stream: everything up to `seq` of `epoch` is here. */
export class Place {
  epoch: string | null = null;
  seq = 0;
  /** Something may have been missed. */
  stale = true;
  gapSince: number | undefined;
  private readonly above = new Set<number>();
  /** Everything from here on is. A stream that is followed from its middle starts at the first live message. */
  private from = 0;

  /** The stream is followed from this message on. */
  begin(epoch: string | null | undefined, seq: number | null | undefined, now: number): void {
    this.set(epoch ?? null, seq ?? null, now);
    this.from = this.seq;
  }

  /** A message of this position is here. A new epoch says that the stream may have lost something. */
  advance(epoch: string | null | undefined, seq: number | null | undefined, now: number): void {
    if (epoch == null || seq == null) return;
    if (epoch !== this.epoch) {
      this.stale = true;
    } else if (seq > this.seq) {
      this.above.add(seq);
      this.close(now);
    }
  }

  /** Everything up to here is known. */
  set(epoch: string | null, seq: number | null, now: number): void {
    if (epoch !== this.epoch) {
      this.above.clear();
      this.seq = 0;
      this.from = 0;
    } else if (seq !== null && seq < this.from - 1) {
      // What lies between the two was never here.
      for (let known = this.from; known <= this.seq; known++) this.above.add(known);
      this.seq = seq;
      this.from = seq;
    }
    this.epoch = epoch;
    this.seq = Math.max(this.seq, seq ?? 0);
    this.gapSince = undefined;
    this.close(now);
    // Without a stream to follow nothing tells what comes.
    this.stale = epoch === null;
  }

  private close(now: number): void {
    for (const seq of this.above) if (seq <= this.seq) this.above.delete(seq);
    while (this.above.delete(this.seq + 1)) this.seq++;
    if (this.above.size === 0) this.gapSince = undefined;
    else this.gapSince ??= now;
  }
}
