import type { Chat } from "@holdfast/client";
import { useEffect, useRef, useState } from "react";
import { draftsOf } from "../model/hub";
import { useHub } from "./context";
import { Close, Picture, Send } from "./icons";
import { AskForm, Field, IconButton, Modal } from "./parts";

/** What the gateway takes, in Unicode characters. */
const MOST = 4_096;
const TYPING_AGAIN_MS = 2_500;
const DRAFT_MS = 300;

export function Composer({ chat, title, sent }: { chat: Chat; title: string; sent: () => void }) {
  const hub = useHub();
  const draft = draftsOf(hub.userId) + chat.id;
  const [text, setText] = useState(() => sessionStorage.getItem(draft) ?? "");
  const [imageUrl, setImageUrl] = useState("");
  const [attaching, setAttaching] = useState(false);
  const toldAt = useRef(0);
  const box = useRef<HTMLTextAreaElement>(null);
  const characters = [...text].length;
  const ready = (text.trim() !== "" || imageUrl !== "") && characters <= MOST;

  useEffect(() => {
    const timer = setTimeout(() => sessionStorage.setItem(draft, text), DRAFT_MS);
    return () => clearTimeout(timer);
  }, [draft, text]);
  const typing = (now: boolean) => {
    const time = Date.now();
    if (now && time - toldAt.current < TYPING_AGAIN_MS) return;
    if (!now && toldAt.current === 0) return;
    toldAt.current = now ? time : 0;
    chat.typing(now);
  };
  const quiet = useRef(typing);
  quiet.current = typing;
  useEffect(() => () => quiet.current(false), []);

  const send = () => {
    if (!ready) return;
    const { kept } = chat.send({ content: text, ...(imageUrl && { imageUrl }) });
    // Once the outbox has it, it survives this page; the view says so if it can't be kept.
    kept.catch(() => {});
    setText("");
    setImageUrl("");
    sessionStorage.removeItem(draft);
    toldAt.current = 0;
    sent();
    box.current?.focus();
  };
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {imageUrl && (
        <p className="attached">
          <span className="grow">
            A picture from <bdi>{URL.canParse(imageUrl) ? new URL(imageUrl).host : imageUrl}</bdi>
          </span>
          <IconButton label="Leave the picture out" onClick={() => setImageUrl("")}>
            <Close />
          </IconButton>
        </p>
      )}
      <div className="composer-line">
        <IconButton label="Add a picture by its address" onClick={() => setAttaching(true)}>
          <Picture />
        </IconButton>
        <textarea
          ref={box}
          aria-label={`Write to ${title}`}
          placeholder="Write a message"
          rows={1}
          dir="auto"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            typing(event.target.value.trim() !== "");
          }}
          onBlur={() => typing(false)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <button type="submit" className="icon-button send" aria-label="Send" title="Send" disabled={!ready}>
          <Send />
        </button>
      </div>
      {characters > MOST - 200 && (
        <p className={`count ${characters > MOST ? "error" : ""}`} role="status">
          {characters > MOST ? `${characters - MOST} characters too many` : `${MOST - characters} left`}
        </p>
      )}
      {attaching && (
        <Attach
          close={() => setAttaching(false)}
          attach={(url) => {
            setImageUrl(url);
            setAttaching(false);
          }}
        />
      )}
    </form>
  );
}

function Attach({ close, attach }: { close: () => void; attach: (url: string) => void }) {
  const [url, setUrl] = useState("");
  const submit = async () => {
    const given = url.trim();
    if (!URL.canParse(given) || !given.startsWith("https://")) throw new Error("An address that begins with https://");
    attach(given);
  };
  return (
    <Modal title="A picture by its address" close={close}>
      <AskForm action="Add" submit={submit} disabled={url.trim() === ""}>
        <Field
          id="image-url"
          label="Address"
          hint="It stays where it is; whoever looks at it loads it from there."
          type="url"
          inputMode="url"
          value={url}
          maxLength={2048}
          onChange={(event) => setUrl(event.target.value)}
        />
      </AskForm>
    </Modal>
  );
}
