import { expect, test } from "vitest";
import { subject, USER_ID } from "../src/model/session";
import { dayName, listTime, sameDay, seen } from "../src/view/times";

const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");

test("a token says whose it is, and what is no token says nothing", () => {
  expect(subject(`${part({ alg: "none" })}.${part({ sub: "alice" })}.x`)).toBe("alice");
  for (const text of ["", "alice", "a.b.c", `a.${part({ sub: 1 })}.c`, `a.${part({})}.c`])
    expect(subject(text)).toBeUndefined();
});

test("user names are what the gateway takes", () => {
  for (const name of ["alice", "A.b-c_9", "x".repeat(64)]) expect(USER_ID.test(name)).toBe(true);
  for (const name of ["", "x".repeat(65), "a b", "a:b", "ä", "<b>"]) expect(USER_ID.test(name)).toBe(false);
});

test("days and times are as near as they have to be", () => {
  const now = new Date(2026, 4, 10, 15, 30).getTime();
  const hours = (count: number) => now - count * 3_600_000;
  expect([dayName(hours(1), now), dayName(hours(24), now)]).toEqual(["Today", "Yesterday"]);
  expect(dayName(hours(72), now)).toContain("2026");
  expect(sameDay(now, hours(15))).toBe(true);
  expect(sameDay(now, hours(16))).toBe(false);
  expect(listTime(hours(1), now)).toMatch(/\d\d?:30/);
  expect(seen(now - 10_000, now)).toBe("last seen just now");
  expect(seen(now - 600_000, now)).toBe("last seen 10 minutes ago");
});
