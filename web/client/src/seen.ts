/** What this client has seen of the service, which later reads name (`X-Read-After`): none of them shows an older state. */

const NAMED_MS = 5000; // unless the service says how far its replicas may be behind
const NAMED_MAX = 16; // which one header may name
const LONGEST = 4000; // characters of the header
const NEWEST = "now"; // is read from the primary

/** A request on its way: what it names, and what takes the headers of its response. */
export interface Naming {
  headers: Record<string, string>;
  answered: (headers: Headers) => void;
}

export class Seen {
  private marks = new Map<string, number>(); // transactions and positions of reads, and until when they are named
  private event = { position: "", until: 0 }; // the newest one
  private lag: number | null = null; // of replicas, in seconds; 0 without them, null if that is not known yet

  /** `preflighted`: whether one header more costs nothing, because the origin is the page's, or is asked first anyway. */
  begin(method: string, preflighted: boolean): Naming {
    const reads = method === "GET" || method === "HEAD" || method === "QUERY";
    const before = this.current();
    const names = reads && before.length > 0 && (preflighted || this.lag !== 0);
    const text = before.join(" ");
    return {
      headers: names ? { "X-Read-After": before.length > NAMED_MAX || text.length > LONGEST ? NEWEST : text } : {},
      answered: headers => {
        const position = headers.get("X-Stream-Position");
        if (position !== null) this.lag = Number(headers.get("X-Replica-Max-Lag") ?? 0);
        const mark = reads ? this.lag && position : headers.get("X-Transaction"); // without replicas a read needs no name
        if (!mark) return;
        if (names || !reads) for (const each of before) this.marks.delete(each); // the response is of a later state
        this.marks.set(mark, this.until());
      },
    };
  }

  /** An event has come, of one of several connections. */
  note(position: string): void {
    const place = position.split("~")[0]!;
    if (!isOlder(place, this.event.position)) this.event = { position: place, until: this.until() };
  }

  /** What is named now. */
  private current(): string[] {
    const now = Date.now();
    for (const [mark, until] of this.marks) if (until <= now) this.marks.delete(mark);
    return [...this.marks.keys(), ...(this.event.until > now ? [this.event.position] : [])];
  }

  /** After that every replica has what has been seen now. */
  private until(): number {
    return Date.now() + (this.lag ? 1000 * this.lag : NAMED_MS);
  }
}

/** Whether a position, without a snapshot, is before another one. */
function isOlder(one: string, other: string): boolean {
  const [mine, others] = [one, other].map(each => each.split("-").map(Number)) as [number[], number[]];
  const at = mine.findIndex((number, place) => number !== others[place]);
  return at >= 0 && mine[at]! < others[at]!;
}
