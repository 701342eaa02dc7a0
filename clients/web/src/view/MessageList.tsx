import type { ViewMessage } from "@holdfast/client";
import { memo, type Ref, useEffect, useImperativeHandle, useLayoutEffect, useRef, useState } from "react";
import { Virtualizer, type VirtualizerHandle } from "virtua";
import { useName } from "./context";
import { Clock, Down, Tick, Ticks, Warning } from "./icons";
import { IconButton } from "./parts";
import { usePreferences } from "./preferences";
import { clockTime, dayName, sameDay } from "./times";

export interface MessageListHandle {
  /** Scrolls to a message. */
  show(key: string): void;
  toEnd(): void;
}

/** From here on the next older page is read. */
const NEAR_PX = 400;
/** Within so much of the end, new messages are followed. */
const END_PX = 80;
/** Messages of one sender that belong together. */
const TOGETHER_MS = 5 * 60_000;

export function MessageList({
  ref,
  messages,
  userId,
  group,
  query,
  current,
  older,
  complete,
  reading,
  notice,
  retry,
  discard,
  label,
}: {
  ref: Ref<MessageListHandle>;
  messages: readonly ViewMessage[];
  userId: string;
  group: boolean;
  query: string;
  /** The match that is looked at. */
  current: string | undefined;
  older: () => Promise<void>;
  complete: boolean;
  reading: boolean;
  notice: string;
  retry: (tempId: string) => void;
  discard: (tempId: string) => void;
  label: string;
}) {
  const scroller = useRef<HTMLElement>(null);
  const list = useRef<VirtualizerHandle>(null);
  const atEnd = useRef(true);
  const [away, setAway] = useState(false);
  const [near, setNear] = useState(true);
  const first = useRef<string>(undefined);
  const count = messages.length;

  // What is put before the first message must not move what is looked at.
  const prepended =
    first.current !== undefined &&
    messages[0]?.key !== first.current &&
    messages.some(({ key }) => key === first.current);
  const last = messages[count - 1]?.key;
  useLayoutEffect(() => {
    first.current = messages[0]?.key;
  });

  const toEnd = () => list.current?.scrollToIndex(count - 1, { align: "end" });
  useImperativeHandle(ref, () => ({
    show: (key) => {
      const index = messages.findIndex((message) => message.key === key);
      if (index >= 0) list.current?.scrollToIndex(index, { align: "center" });
    },
    // With what is not drawn yet.
    toEnd: () => {
      atEnd.current = true;
      requestAnimationFrame(toEnd);
    },
  }));

  // biome-ignore lint/correctness/useExhaustiveDependencies: whenever something is added at the end
  useLayoutEffect(() => {
    if (atEnd.current) toEnd();
  }, [last, count]);

  // A window that becomes smaller, as by a keyboard on the screen, keeps the end in view.
  // biome-ignore lint/correctness/useExhaustiveDependencies: it looks at the list as it is then
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      if (atEnd.current) toEnd();
    });
    observer.observe(scroller.current!);
    return () => observer.disconnect();
  }, [count]);

  const scrolled = (offset: number) => {
    const { viewportSize = 0, scrollSize = 0 } = list.current ?? {};
    atEnd.current = scrollSize - offset - viewportSize < END_PX;
    setAway(!atEnd.current && scrollSize > viewportSize);
    setNear(offset < NEAR_PX);
    if (offset < NEAR_PX) void older();
  };
  // A page that does not fill the window leaves nothing to scroll.
  // biome-ignore lint/correctness/useExhaustiveDependencies: after each page
  useEffect(() => {
    const { viewportSize = 0, scrollSize = 0 } = list.current ?? {};
    if (!complete && !reading && count > 0 && scrollSize <= viewportSize && notice === "") void older();
  }, [count, complete, reading]);

  const note = notice || (reading && near ? "Loading…" : "");
  return (
    <div className="messages-place">
      {note && <p className="note">{note}</p>}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it is scrolled by keys */}
      <section className="messages" ref={scroller} tabIndex={0} aria-label={label}>
        {count === 0 && !reading && !notice && <p className="empty">No messages yet.</p>}
        <Virtualizer
          ref={list}
          scrollRef={scroller}
          as="ul"
          item="li"
          shift={prepended}
          onScroll={scrolled}
          data={messages}
        >
          {(message: ViewMessage, index: number) => {
            const before = messages[index - 1];
            return (
              <Line
                key={message.key}
                message={message}
                mine={message.senderId === userId}
                begins={index === 0 && complete}
                ends={index === count - 1}
                day={before && sameDay(before.timestamp, message.timestamp) ? "" : dayName(message.timestamp)}
                follows={
                  before !== undefined &&
                  before.senderId === message.senderId &&
                  message.timestamp - before.timestamp < TOGETHER_MS
                }
                group={group}
                query={query}
                current={message.key === current}
                retry={retry}
                discard={discard}
              />
            );
          }}
        </Virtualizer>
      </section>
      {away && (
        <IconButton label="To the newest message" className="to-end" onClick={toEnd}>
          <Down />
        </IconButton>
      )}
    </div>
  );
}

const Line = memo(function Line({
  message,
  mine,
  begins,
  ends,
  day,
  follows,
  group,
  query,
  current,
  retry,
  discard,
}: {
  message: ViewMessage;
  mine: boolean;
  begins: boolean;
  ends: boolean;
  day: string;
  follows: boolean;
  group: boolean;
  query: string;
  current: boolean;
  retry: (tempId: string) => void;
  discard: (tempId: string) => void;
}) {
  const { content, imageUrl, status, timestamp, tempId, error } = message;
  const name = useName(message.senderId);
  const joined = follows && day === "";
  return (
    <div className={`line ${mine ? "mine" : "theirs"} ${joined ? "joined" : ""} ${ends ? "last" : ""}`}>
      {begins && <p className="begins">This is where the chat begins.</p>}
      {day && <p className="day">{day}</p>}
      <div
        className={`bubble ${status} ${current ? "current" : ""}`}
        data-message={message.messageId ?? ""}
        data-status={status}
      >
        {group && !mine && !joined ? (
          <bdi className="sender">{name}</bdi>
        ) : (
          <span className="hidden">{mine ? "You" : name}: </span>
        )}
        {imageUrl && <RemoteImage url={imageUrl} mine={mine} />}
        {content && (
          <p className="text" dir="auto">
            <Marked text={content} query={query} />
          </p>
        )}
        <p className="meta">
          <time dateTime={new Date(timestamp).toISOString()}>{clockTime(timestamp)}</time>
          {mine && <Standing status={status} />}
        </p>
        {status === "failed" && tempId && (
          <div className="failure">
            <p>Not sent{error ? `: ${error.message}` : ""}</p>
            <button type="button" onClick={() => retry(tempId)}>
              Try again
            </button>
            <button type="button" onClick={() => discard(tempId)}>
              Discard
            </button>
          </div>
        )}
      </div>
    </div>
  );
});

const STANDING = {
  sending: { words: "Sending", Icon: Clock },
  sent: { words: "Sent: it is stored for good", Icon: Tick },
  read: { words: "Read", Icon: Ticks },
  failed: { words: "Not sent", Icon: Warning },
};

function Standing({ status }: { status: ViewMessage["status"] }) {
  if (status === "received") return null;
  const { words, Icon } = STANDING[status];
  return (
    <span className={`tick ${status}`} title={words}>
      <Icon />
      <span className="hidden">{words}</span>
    </span>
  );
}

function Marked({ text, query }: { text: string; query: string }) {
  if (!query) return text;
  const lower = text.toLocaleLowerCase();
  // What changes its length with its case can't be marked by place.
  if (lower.length !== text.length) return text;
  const parts: React.ReactNode[] = [];
  let from = 0;
  for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + query.length)}</mark>);
    from = at + query.length;
  }
  parts.push(text.slice(from));
  return parts;
}

/** A picture from elsewhere. Whoever loads it shows its host an address, so that is asked first. */
function RemoteImage({ url, mine }: { url: string; mine: boolean }) {
  const { images } = usePreferences();
  const [wanted, setWanted] = useState(false);
  const [broken, setBroken] = useState(false);
  const host = URL.canParse(url) && url.startsWith("https:") ? new URL(url).host : undefined;
  if (host === undefined || broken) return <p className="picture-note">A picture that can’t be shown</p>;
  if (!mine && !images && !wanted) {
    return (
      <button type="button" className="picture-ask" onClick={() => setWanted(true)}>
        Show the picture from <bdi>{host}</bdi>
      </button>
    );
  }
  return (
    <a href={url} target="_blank" rel="noreferrer noopener" className="picture">
      <img src={url} alt={`From ${host}`} referrerPolicy="no-referrer" loading="lazy" onError={() => setBroken(true)} />
    </a>
  );
}
