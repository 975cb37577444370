import { ANY } from '../filter';
import { PanelModel } from '../panel';
import { Store } from '../store';
import { Server, until } from './support';

let server: Server;
let store: Store;
let panel: PanelModel;

beforeEach(async () => {
  server = new Server();
  server.add('a', 3);
  server.add('b', 2, { Operation: 'Network', Resource: 'tcp' });
  store = new Store(server.api, { pause: 1, interval: 1_000_000 });
  panel = new PanelModel(store);
  await store.refresh();
});

afterEach(() => {
  panel.dispose();
  store.dispose();
});

describe('the panel', () => {
  it('reads nothing while nobody sees it', async () => {
    panel.current = 'a';
    await store.refresh();
    expect(server.asked).toEqual(['kernels', 'kernels']);
  });

  it('shows the kernel in front', async () => {
    panel.visible = true;
    panel.current = 'a';
    await until(() => panel.rows().length === 1);
    expect(panel.rows()[0].count).toBe(3);
    panel.current = 'b';
    await until(() => panel.rows()[0]?.kernelId === 'b');
    expect(panel.rows()[0].count).toBe(2);
  });

  it('shows all kernels', async () => {
    panel.visible = true;
    panel.scope = 'all';
    await until(() => panel.rows().length === 2);
    expect(panel.choices().cells).toEqual([1]);
  });

  it('says why alerts do not arrive, each reason once', async () => {
    panel.visible = true;
    panel.scope = 'all';
    expect(panel.unheard()).toEqual([]);
    const said = { alerts_not_heard: 'no relay is named' };
    server.said.set('a', said).set('b', said);
    await store.refresh();
    expect(panel.unheard()).toEqual(['no relay is named']);
    server.said.delete('a');
    panel.scope = 'current';
    panel.current = 'a';
    await store.refresh();
    expect(panel.unheard()).toEqual([]);
  });

  it('keeps its filter from kernel to kernel', async () => {
    panel.visible = true;
    panel.filter = { ...ANY, operations: ['File'] };
    panel.current = 'a';
    await until(() => panel.rows().length === 1);
    panel.current = 'b';
    await until(() => store.record('b')!.read === 2);
    expect(panel.rows()).toEqual([]);
  });

  it('lets go of a choice that is no longer listed', async () => {
    panel.visible = true;
    panel.current = 'a';
    await until(() => panel.rows().length === 1);
    panel.selected = panel.rows()[0];
    panel.current = 'b';
    expect(panel.selected).toBeUndefined();
  });
});
