import { LabIcon } from '@jupyterlab/ui-components';

const SHIELD =
  'M12 1.8 20.5 5v6.2c0 5.2-3.4 8.9-8.5 11-5.1-2.1-8.5-5.8-8.5-11V5Z';

function svg(inner: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">${inner}</svg>`;
}

/** Confined. */
export const shieldIcon = new LabIcon({
  name: 'modelarmor:shield',
  svgstr: svg(
    `<path class="jp-icon3 jp-icon-selectable" fill="#616161" d="${SHIELD}"/>` +
      '<path class="jp-icon-inverse0 jp-icon-inverse-selectable" fill="none" stroke="var(--jp-layout-color1, #fff)" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" d="m8 11.8 3 3 5.2-5.8"/>'
  )
});

/** Not confined: struck through, so that it does not take colour to tell. */
export const shieldOffIcon = new LabIcon({
  name: 'modelarmor:shield-off',
  svgstr: svg(
    `<path class="jp-ModelArmor-stroke" fill="none" stroke="#616161" stroke-width="2" stroke-linejoin="round" d="${SHIELD}"/>` +
      '<path class="jp-ModelArmor-stroke" fill="none" stroke="#616161" stroke-width="2.4" stroke-linecap="round" d="M4 3.5 20 20.5"/>'
  )
});

/** Confined, and refused something. */
export const shieldAlertIcon = new LabIcon({
  name: 'modelarmor:shield-alert',
  svgstr: svg(
    `<path class="jp-icon3 jp-icon-selectable" fill="#616161" d="${SHIELD}"/>` +
      '<path fill="none" stroke="var(--jp-layout-color1, #fff)" stroke-width="2.6" stroke-linecap="round" d="M12 7v5.6M12 16.6v.1"/>'
  )
});
