static int billet_set_vf_guid(struct net_device *dev, int vf, u64 guid, int kind)
{
	struct netdevsim *ns = netdev_priv(dev);

	if (vf >= nsim_dev_get_vfs(ns->nsim_dev))
		return -EINVAL;
	ns->nsim_dev->vfconfigs[vf].guid[kind == IFLA_VF_IB_PORT_GUID] = guid;
	return 0;
}

static int billet_get_vf_guid(struct net_device *dev, int vf,
			      struct ifla_vf_guid *node, struct ifla_vf_guid *port)
{
	struct netdevsim *ns = netdev_priv(dev);

	if (vf >= nsim_dev_get_vfs(ns->nsim_dev))
		return -EINVAL;
	node->guid = ns->nsim_dev->vfconfigs[vf].guid[0];
	port->guid = ns->nsim_dev->vfconfigs[vf].guid[1];
	return 0;
}

static const struct net_device_ops nsim_netdev_ops = {
	.ndo_set_vf_guid	= billet_set_vf_guid,
	.ndo_get_vf_guid	= billet_get_vf_guid,
