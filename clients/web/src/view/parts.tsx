import * as Ariakit from "@ariakit/react";
import { type ReactNode, useState } from "react";
import { said } from "../model/hub";
import { Close } from "./icons";

/** A round mark with a name's first letter: nobody's picture is loaded from elsewhere. */
export function Avatar({ id, name, online }: { id: string; name: string; online?: boolean }) {
  let hash = 0;
  for (let at = 0; at < id.length; at++) hash = (hash * 31 + id.charCodeAt(at)) % 360;
  const [letter = "?"] = new Intl.Segmenter().segment(name.trim())[Symbol.iterator]().next().value?.segment ?? "?";
  return (
    <span className={`avatar tone-${hash % 6}`} aria-hidden="true">
      {letter.toUpperCase()}
      {online && <span className="presence" />}
    </span>
  );
}

export function IconButton({
  label,
  children,
  ...props
}: { label: string; children: ReactNode } & Omit<Ariakit.ButtonProps, "children">) {
  return (
    <Ariakit.Button {...props} className={`icon-button ${props.className ?? ""}`} aria-label={label} title={label}>
      {children}
    </Ariakit.Button>
  );
}

export function Modal({ title, close, children }: { title: string; close: () => void; children: ReactNode }) {
  return (
    <Ariakit.Dialog open onClose={close} className="dialog" backdrop={<div className="backdrop" />}>
      <header className="dialog-head">
        <Ariakit.DialogHeading className="dialog-title">{title}</Ariakit.DialogHeading>
        <Ariakit.DialogDismiss className="icon-button" aria-label="Close" title="Close">
          <Close />
        </Ariakit.DialogDismiss>
      </header>
      {children}
    </Ariakit.Dialog>
  );
}

/** A form whose button waits for what it asks for, and which says why if that fails. */
export function AskForm({
  action,
  submit,
  children,
  disabled = false,
}: {
  action: string;
  submit: () => Promise<unknown>;
  children: ReactNode;
  disabled?: boolean;
}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const run = async () => {
    setBusy(true);
    setError("");
    try {
      await submit();
    } catch (reason) {
      setError(said(reason));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      className="ask"
      onSubmit={(event) => {
        event.preventDefault();
        event.stopPropagation();
        if (!busy && !disabled) void run();
      }}
    >
      {children}
      {error && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <button type="submit" className="primary" disabled={busy || disabled}>
        {action}
      </button>
    </form>
  );
}

export function Field({
  label,
  hint,
  id,
  ...props
}: { label: string; hint?: string; id: string } & React.InputHTMLAttributes<HTMLInputElement>) {
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        autoComplete="off"
        spellCheck={false}
        {...props}
        {...(hint && { "aria-describedby": `${id}-hint` })}
      />
      {hint && (
        <small id={`${id}-hint`} className="hint">
          {hint}
        </small>
      )}
    </div>
  );
}
