/** Server-Sent Events, block by block: https://html.spec.whatwg.org/multipage/server-sent-events.html */

export interface Block {
  event: string;
  /** The position, if the block has one; blocks without data have one, too. */
  id: string | null;
  retry: number | null;
  data: string | null;
}

/** Text in, blocks out. */
export class Parser {
  private rest = "";
  private block: Block = empty();

  feed(text: string): Block[] {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop()!;
    const found: Block[] = [];
    for (const line of lines) {
      if (line === "") {
        found.push(this.block);
        this.block = empty();
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
      if (name === "event") this.block.event = value;
      else if (name === "id") this.block.id = value;
      else if (name === "retry") this.block.retry = Number(value) || null;
      else if (name === "data") this.block.data = this.block.data === null ? value : `${this.block.data}\n${value}`;
    }
    return found;
  }
}

function empty(): Block {
  return { event: "", id: null, retry: null, data: null };
}
