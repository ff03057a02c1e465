/** Moments in time zones: what a person writes, and RFC 3339. */

export const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

export function zones(): string[] {
  const all = "supportedValuesOf" in Intl ? Intl.supportedValuesOf("timeZone") : [];
  return [...new Set([LOCAL_ZONE, "UTC", ...all])];
}

/** The wall clock of a moment in a zone, as `datetime-local` has it: 2026-01-31T12:00:00. */
export function wallClock(moment: string, zone: string): string {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "";
  const parts = Object.fromEntries(
    new Intl.DateTimeFormat("en-CA", {
      timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
    }).formatToParts(date).map(part => [part.type, part.value]),
  );
  return `${parts["year"]!.padStart(4, "0")}-${parts["month"]}-${parts["day"]}T${parts["hour"]}:${parts["minute"]}:${parts["second"]}`;
}

/** The moment at which clocks in a zone show this; of two, the earlier one. */
export function moment(wall: string, zone: string): string {
  const guess = new Date(`${wall}Z`);
  if (Number.isNaN(guess.getTime())) return wall;
  let found = guess.getTime();
  for (let round = 0; round < 2; round += 1) {
    const shown = new Date(`${wallClock(new Date(found).toISOString(), zone)}Z`).getTime();
    found += guess.getTime() - shown;
  }
  return new Date(found).toISOString().replace(".000Z", "Z");
}
