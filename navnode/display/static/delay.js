// How long messages wait on the way, as far as clocks that are not set alike can tell: compared with the quickest one.
const DRIFT = 1e-4; // Of two clocks, at most: what was quickest counts ever less.

export class Delay {
  quickest_ms = Infinity;
  at_ms = 0;

  // Of a message that was sent at a time of the sender's clock and came at one of ours.
  of(sent_ms, now_ms) {
    const behind_ms = now_ms - sent_ms;
    this.quickest_ms = Math.min(this.quickest_ms + DRIFT * (now_ms - this.at_ms), behind_ms);
    this.at_ms = now_ms;
    return behind_ms - this.quickest_ms;
  }
}
