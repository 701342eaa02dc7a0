import * as Ariakit from "@ariakit/react";
import { useMemo, useState } from "react";
import { USER_ID } from "../model/session";
import { useHub } from "./context";
import { AskForm, Field, Modal } from "./parts";

export function NewChat({ close, open }: { close: () => void; open: (chatId: string) => void }) {
  return (
    <Modal title="New chat" close={close}>
      <Ariakit.TabProvider defaultSelectedId="person">
        <Ariakit.TabList className="tabs" aria-label="With whom">
          <Ariakit.Tab className="tab" id="person">
            One person
          </Ariakit.Tab>
          <Ariakit.Tab className="tab" id="group">
            A group
          </Ariakit.Tab>
        </Ariakit.TabList>
        <Ariakit.TabPanel tabId="person">
          <Person open={open} />
        </Ariakit.TabPanel>
        <Ariakit.TabPanel tabId="group">
          <NewGroup open={open} />
        </Ariakit.TabPanel>
      </Ariakit.TabProvider>
    </Modal>
  );
}

function Person({ open }: { open: (chatId: string) => void }) {
  const hub = useHub();
  const [friend, setFriend] = useState("");
  const submit = async () => open(hub.direct(userIdOf(friend, hub.userId)));
  return (
    <AskForm action="Open" submit={submit} disabled={friend.trim() === ""}>
      <Field
        id="friend"
        label="User name"
        value={friend}
        onChange={(event) => setFriend(event.target.value)}
        maxLength={64}
      />
    </AskForm>
  );
}

function NewGroup({ open }: { open: (chatId: string) => void }) {
  const hub = useHub();
  const [name, setName] = useState("");
  const [members, setMembers] = useState("");
  // However often the same is asked for, it is one group.
  // biome-ignore lint/correctness/useExhaustiveDependencies: another name or other members are another group
  const key = useMemo(randomId, [name, members]);
  const submit = async () => {
    const ids = members.split(/[\s,;]+/).filter((id) => id !== "");
    const others = [...new Set(ids.map((id) => userIdOf(id, hub.userId)))];
    open(await hub.createGroup(name.trim(), others, key));
  };
  return (
    <AskForm action="Make the group" submit={submit} disabled={name.trim() === ""}>
      <Field
        id="group-name"
        label="Name"
        value={name}
        onChange={(event) => setName(event.target.value)}
        maxLength={100}
      />
      <Field
        id="members"
        label="Members"
        hint="User names, separated by commas. More can be added later."
        value={members}
        onChange={(event) => setMembers(event.target.value)}
      />
    </AskForm>
  );
}

function userIdOf(text: string, own: string): string {
  const id = text.trim();
  if (!USER_ID.test(id)) throw new Error(`“${id}” is no user name: letters, digits, “_”, “.” and “-”`);
  if (id === own) throw new Error("That is you");
  return id;
}

/** Pages that are not served over https have no randomUUID. */
function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
