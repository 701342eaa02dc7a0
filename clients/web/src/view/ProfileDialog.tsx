import { useEffect, useState } from "react";
import { useHub, useHubState } from "./context";
import { AskForm, Field, Modal } from "./parts";

export function ProfileDialog({ close }: { close: () => void }) {
  const hub = useHub();
  const profile = useHubState((state) => state.profiles[hub.userId]);
  const [name, setName] = useState("");
  const [about, setAbout] = useState("");
  useEffect(() => hub.wantProfile(hub.userId), [hub]);
  useEffect(() => {
    setName(profile?.displayName ?? "");
    setAbout(profile?.about ?? "");
  }, [profile]);
  const save = async () => {
    const body = { ...profile, displayName: name.trim(), about: about.trim() || null };
    const path = { userId: hub.userId };
    hub.gotProfile(hub.userId, await hub.api.call("put", "/api/users/{userId}/profile", { path, body }));
    close();
  };
  return (
    <Modal title="Your profile" close={close}>
      <AskForm action="Save" submit={save} disabled={name.trim() === "" || profile === undefined}>
        <Field
          id="display-name"
          label="Name"
          value={name}
          onChange={(event) => setName(event.target.value)}
          maxLength={64}
        />
        <Field
          id="about"
          label="About you"
          hint="Everybody can read this."
          value={about}
          onChange={(event) => setAbout(event.target.value)}
          maxLength={500}
        />
        <p className="hint">
          Others find you as <strong>{hub.userId}</strong>.
        </p>
      </AskForm>
    </Modal>
  );
}
