const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

const startOf = (time: number) => new Date(time).setHours(0, 0, 0, 0);

export const sameDay = (one: number, other: number) => startOf(one) === startOf(other);
export const clockTime = (time: number) => clock.format(time);

export function dayName(time: number, now = Date.now()): string {
  const days = Math.round((startOf(now) - startOf(time)) / 86_400_000);
  return days === 0 ? "Today" : days === 1 ? "Yesterday" : day.format(time);
}

/** As short as a list needs it. */
export function listTime(time: number, now = Date.now()): string {
  return sameDay(time, now) ? clock.format(time) : short.format(time);
}

/** When somebody was seen last. */
export function seen(time: number, now = Date.now()): string {
  const minutes = Math.floor((now - time) / 60_000);
  if (minutes < 2) return "last seen just now";
  if (minutes < 60) return `last seen ${minutes} minutes ago`;
  return sameDay(time, now) ? `last seen at ${clock.format(time)}` : `last seen ${short.format(time)}`;
}
